"""Which skill a name means."""

import pytest

from lmx.errors import SkillNotFound
from lmx.skills.manifest import Manifest
from lmx.skills.registry import Registry, version_key


def skill(name: str, namespace: str = "local", version: str = "1.0.0") -> Manifest:
    """Any skill of that name."""
    return Manifest(name=name, namespace=namespace, version=version, kind="prompt", template="x")


REGISTRY = Registry(
    [
        skill("a", version="1.10.0"),
        skill("a", version="1.9.0"),
        skill("a", version="1.10.0-beta"),
        skill("b"),
        skill("b", namespace="other"),
        skill("c.d", namespace="other"),
    ]
)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("a", "local/a@1.10.0"),
        ("local/a", "local/a@1.10.0"),
        ("local/a@1.9.0", "local/a@1.9.0"),
        ("a@1.9.0", "local/a@1.9.0"),
        ("other/b", "other/b@1.0.0"),
        ("c.d", "other/c.d@1.0.0"),
    ],
)
def test_a_name_means_one_skill(name: str, reference: str) -> None:
    """Bare, qualified and with version; without version the latest."""
    assert reference == REGISTRY.find(name).reference


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("b", "several skills are called 'b': local/b, other/b"),
        ("a@2", "there is no skill 'a@2'; its versions are 1.9.0, 1.10.0-beta, 1.10.0"),
        ("c_d", "did you mean 'c.d'?"),
        ("zzzzzz", "there is no skill 'zzzzzz'"),
        ("", "there is no skill ''"),
        ("x" * 10_000, "there is no skill 'xxx"),
        ("a@" + "9" * 10_000, "there is no skill 'a@999"),
    ],
)
def test_a_name_that_means_none_is_explained(name: str, message: str) -> None:
    """The message says what there is, and stays short."""
    with pytest.raises(SkillNotFound) as caught:
        REGISTRY.find(name)
    assert message in caught.value.message
    assert len(caught.value.message) < 400


def test_the_list_is_in_order_and_can_have_each_skill_once() -> None:
    """Sorted by name and version; of each only the latest if asked."""
    assert [
        "local/a@1.9.0",
        "local/a@1.10.0-beta",
        "local/a@1.10.0",
        "local/b@1.0.0",
        "other/b@1.0.0",
        "other/c.d@1.0.0",
    ] == [one.reference for one in REGISTRY.list()]
    assert ["local/a@1.10.0", "local/b@1.0.0", "other/b@1.0.0", "other/c.d@1.0.0"] == [
        one.reference for one in REGISTRY.list(latest_only=True)
    ]


def test_versions_are_numbers_where_they_are_numbers() -> None:
    """Also very long ones, and ones of different lengths."""
    ordered = ["0.9", "1.0-rc", "1.0", "1.0.1", "1.2", "1.10", "2", "9" * 32]
    assert ordered == sorted({*ordered}, key=version_key)
