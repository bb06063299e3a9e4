"""Ad embeddings become one index per domain, measured against exact search. No torch: the exported towers run in ONNX Runtime."""
