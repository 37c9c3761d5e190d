import pytest

from autocompress.errors import SettingError
from autocompress.methods.admm import Admm
from autocompress.methods.choose import MethodSettings, make_method
from autocompress.methods.group_lasso import GroupLasso, GroupLassoSettings
from autocompress.methods.magnitude import Magnitude, MagnitudeSettings
from autocompress.methods.spp import Spp, SppSettings
from autocompress.methods.taylor import Taylor, TaylorSettings
from autocompress.settings import hash_settings, parse_settings, settings_to_json

BEFORE = {  # As settings were written when admm and magnitude were all there was.
    "name": "admm",
    "admm": {
        "form": "proximal",
        "rho_first": 100,
        "rho_last": 100,
        "updates": 20,
        "dual": True,
        "stop_change": 0,
        "stop_residual": 0,
    },
}


def test_settings_from_before_the_other_methods_stay_equal() -> None:
    assert settings_to_json(MethodSettings()) == BEFORE
    assert parse_settings(MethodSettings, BEFORE) == MethodSettings()
    assert settings_to_json(MethodSettings(name="magnitude")) == {**BEFORE, "name": "magnitude"}


def test_tables_are_read_and_given_to_their_methods() -> None:
    record = {
        "magnitude": {"norm": 1},
        "taylor": {"batches": 3},
        "group_lasso": {"strength": 2.5},
        "spp": {"every": 9},
    }
    settings = {name: parse_settings(MethodSettings, {**record, "name": name}) for name in record}

    assert make_method(settings["magnitude"]) == Magnitude(settings=MagnitudeSettings(norm=1))
    assert make_method(settings["taylor"]) == Taylor(settings=TaylorSettings(batches=3))
    lasso = GroupLasso(settings=GroupLassoSettings(strength=2.5))
    assert make_method(settings["group_lasso"]) == lasso
    assert make_method(settings["spp"]) == Spp(settings=SppSettings(every=9))
    for one in settings.values():
        again = parse_settings(MethodSettings, settings_to_json(one))
        assert again == one
        assert hash_settings(again) == hash_settings(one) != hash_settings(MethodSettings())


def test_without_a_table_a_method_has_its_defaults() -> None:
    assert make_method(MethodSettings()) == Admm()
    assert make_method(MethodSettings(name="magnitude")) == Magnitude()
    assert make_method(MethodSettings(name="taylor")) == Taylor()
    assert make_method(MethodSettings(name="group_lasso")) == GroupLasso()
    assert make_method(MethodSettings(name="spp")) == Spp()


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("magnitude", "norm", 3),
        ("taylor", "batches", 0),
        ("group_lasso", "strength", 0.0),
        ("group_lasso", "updates", 0),
        ("spp", "step", 1.5),
        ("spp", "share", 0.0),
        ("spp", "hold", 1.0),
        ("spp", "every", 0),
        ("spp", "updates", 0),
    ],
)
def test_values_that_make_no_sense_are_refused(table: str, key: str, value: float) -> None:
    with pytest.raises(SettingError, match=table):
        parse_settings(MethodSettings, {table: {key: value}})
