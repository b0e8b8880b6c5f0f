"""What is done with a trained adapter: read and checked, loaded beside others, combined, merged and exported."""

import lowrung.finetune  # noqa: F401  (it keeps telemetry off, before the libraries are imported)
