"""What is done with a trained adapter: read and checked, loaded beside others, combined, merged and exported."""

import lowrung.finetune  # noqa: F401  (it silences the libraries, which must come before they are imported)
