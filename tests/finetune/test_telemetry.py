import subprocess
import sys

import pytest

from lowrung.store.layout import ROOT
from tests.terminal import environment

CODE = "import lowrung.finetune; from huggingface_hub import constants; print(constants.HF_HUB_DISABLE_TELEMETRY)"


@pytest.mark.parametrize(("wanted", "is_off"), [("", "True"), ("0", "False")])
def test_trl_tells_the_hub_nothing_unless_the_user_wants_it_to(wanted, is_off):
    variables = environment(HF_HUB_DISABLE_TELEMETRY=wanted)
    if not wanted:
        del variables["HF_HUB_DISABLE_TELEMETRY"]
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=ROOT / "src", env=variables, capture_output=True, check=True
    )
    assert done.stdout.decode().strip() == is_off
