"""Every setting of the gateway: environment variables MDREC_*, read once, listed by `mdrec serve --help`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Units stand in names. Limits are those of the HTTP interface; a client that exceeds one is told which."""

    model_config = SettingsConfigDict(env_prefix="MDREC_", frozen=True, extra="ignore", hide_input_in_errors=True)

    home: Path = Field(default=Path(".mdrec"), description="where bundles, aliases and local Redis data live")
    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8080, ge=0, le=65535, description="port to listen on")
    workers: int = Field(default=1, ge=1, le=256, description="gateway processes; one a core")
    device: str = Field(default="cpu", pattern="^(cpu|cuda)$", description="where towers and ranker run")

    redis_url: str = Field(default="redis://127.0.0.1:6379/0", description="Redis 7 or newer, or Valkey")
    redis_timeout_ms: float = Field(default=20.0, gt=0, description="budget of the one user-row read of a request")
    redis_write_timeout_ms: float = Field(default=1000.0, gt=0, description="time-out of writes: feedback, exposures, records")

    alias_poll_seconds: float = Field(
        default=2.0, gt=0, description="how often aliases, experiments and changed ads are looked at"
    )
    retrieve_k: int = Field(default=500, ge=1, le=10_000, description="candidates retrieved for the ranker")

    max_concurrent: int = Field(default=64, ge=1, description="requests in work in one worker")
    max_queue: int = Field(default=128, ge=0, description="requests that may wait for a permit in one worker")
    queue_timeout_ms: float = Field(default=250.0, gt=0, description="how long a request waits for a permit before 503")
    domain_share: float = Field(default=0.75, gt=0, le=1, description="share of permits and queue one domain may hold")
    retry_after_seconds: int = Field(default=1, ge=1, description="Retry-After of a 503")

    max_body_bytes: int = Field(default=1 << 20, ge=1024, description="larger bodies are answered 413")
    max_events: int = Field(default=1000, ge=1, description="feedback events in one request")

    exposure_queue: int = Field(
        default=20_000, ge=1, description="exposures held in memory while Redis is away; more are dropped"
    )
    shutdown_flush_seconds: float = Field(default=5.0, gt=0, description="how long a stopping worker tries to write exposures")
    event_mark_seconds: int = Field(default=7 * 86400, ge=60, description="how long a feedback event_id is remembered")
    record_seconds: int = Field(default=86400, ge=60, description="how long a decision record is kept")
    record_share: float = Field(default=0.0, ge=0, le=1, description="share of requests whose decision record is kept unasked")
    sticky_seconds: int = Field(
        default=90 * 86400, ge=60, description="how long a sticky experiment remembers a unit's arm after the last new one"
    )
    fold_seconds: int = Field(
        default=900, ge=1, description="how long after its answer an impression still folds into the user's row"
    )

    drift_reference_seconds: int = Field(
        default=3600, ge=1, description="a bundle's first time in a domain, with which its later probabilities are compared"
    )
    shadow_queue: int = Field(default=64, ge=1, description="answers that wait for their shadow in one worker; more are dropped")
    shadow_timeout_ms: float = Field(default=1000.0, gt=0, description="how long a shadow may take before it counts as failed")
    shadow_permits: float = Field(
        default=0.25, ge=0, le=1, description="shadows rest while more than this share of the permits is taken"
    )

    operator_token: SecretStr | None = Field(default=None, description="bearer token of /admin/v1; unset means no admin access")
    operator_tokens: SecretStr | None = Field(default=None, description="a token for each operator, `ada:token,bob:token`")

    @field_validator("operator_tokens")
    @classmethod
    def _readable(cls, tokens: SecretStr | None) -> SecretStr | None:
        named_tokens(tokens)
        return tokens


def named_tokens(tokens: SecretStr | None) -> dict[str, str]:
    """Operator -> token. Raises ValueError, without the tokens, when the text is not `name:token,name:token`."""
    pairs = [one.strip().partition(":") for one in tokens.get_secret_value().split(",")] if tokens is not None else []
    named = {name: token for name, _, token in pairs}
    if not all(name and token for name, token in named.items()) or len({*named.values()}) < len(pairs):
        raise ValueError("operator tokens are not `name:token,name:token` with a name and a token of its own each")
    return named
