"""Every shipped preset loads, says what it is for, and plans."""

import pytest

from medseg.errors import SettingsError
from medseg.paths import shipped, shipped_names
from medseg.planning.plan import Machine
from medseg.planning.presets import Preset, load_preset
from medseg.planning.rules import make_plan


@pytest.mark.parametrize("name", shipped_names("plans"))
def test_every_shipped_preset_loads_and_makes_a_plan(name, make_fingerprint, make_labels):
    preset = load_preset(name)
    assert preset.name == name
    assert preset.description
    fingerprint = make_fingerprint([(1, 1, 1)] * 5, [(36, 50, 35)] * 5, preset.orientation)
    assert make_plan(fingerprint, make_labels(3), preset, Machine(device="any")).preset == name


@pytest.mark.parametrize("name", shipped_names("plans"))
def test_the_readme_of_plans_names_every_preset(name):
    assert f"`{name}`" in (shipped("plans") / "README.md").read_text()


def test_a_preset_can_be_a_file_of_the_users_own(tmp_path):
    load_preset("nnunet").model_copy(update={"name": "mine", "memory_gb": 24.0}).save(tmp_path / "mine.yaml")
    assert load_preset(tmp_path / "mine.yaml").memory_gb == 24


def test_a_misspelt_preset_is_answered_with_the_nearest():
    with pytest.raises(SettingsError, match=r"no preset 'nnunett'\. Did you mean 'nnunet'"):
        load_preset("nnunett")


def test_an_unknown_field_is_named_with_its_file(tmp_path):
    (tmp_path / "x.yaml").write_text("kind: preset\nformat: 1\nname: x\ndescription: y\nbase_feature: 8\n")
    with pytest.raises(SettingsError, match=r"x\.yaml: base_feature"):
        load_preset(tmp_path / "x.yaml")


def test_keeping_sides_needs_the_canonical_orientation():
    with pytest.raises(SettingsError, match="keep_sides needs orientation: canonical"):
        Preset.validated({"name": "x", "description": "y", "orientation": "stored"}, "x.yaml")
