"""The words every room shares: schema, manifest, Redis keys, event records. Standard library, numpy and pydantic only."""
