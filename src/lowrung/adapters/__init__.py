"""What is done with a trained adapter: verify, merge, load beside others, combine."""

import lowrung.finetune  # noqa: F401  (it quietens the libraries, which must come before they are imported)
