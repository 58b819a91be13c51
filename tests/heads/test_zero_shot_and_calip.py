import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from src.errors import UserError
from src.heads.calip import LARGEST_FACTOR, Calip
from src.heads.zero_shot import ZeroShot
from tests.heads import plain


@st.composite
def features(draw):
    n, s, c, d = (draw(st.integers(low, high)) for low, high in ((1, 4), (1, 7), (2, 6), (1, 9)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shapes = ((n, d), (n, s, d), (c, d))
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]


@given(features(), st.sampled_from([1.0, 100.0]))
def test_zero_shot_is_scaled_cosine_similarity(tensors, scale):
    image, _, text = tensors
    expected = [plain.zero_shot(row, text.tolist(), scale) for row in image.tolist()]
    torch.testing.assert_close(
        ZeroShot(text, scale)(image), torch.tensor(expected, dtype=torch.float64)
    )


@given(features(), st.sampled_from([0.5, 2.0, 40.0]), st.floats(0, 6), st.floats(0, 2))
def test_calip_equals_the_plain_computation(tensors, factor, beta2, beta3):
    image, spatial, text = tensors
    expected = [
        plain.calip(f, s, text.tolist(), 100.0, factor, beta2, beta3)
        for f, s in zip(image.tolist(), spatial.tolist(), strict=True)
    ]
    head = Calip(text, 100.0, factor, beta2, beta3)
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(head(image, spatial), expected, atol=1e-5, rtol=0)
    for value, (base, direction) in zip(
        (0.3, beta2), head.lines((0.3, beta2), image, spatial), strict=True
    ):
        head.beta2 = value
        torch.testing.assert_close(base + beta3 * direction, head(image, spatial))


def test_the_largest_factor_is_no_trouble_in_float32_and_a_larger_one_is_refused():
    spatial = torch.eye(3).repeat(2, 1, 1)  # affinities range from 0 to the factor
    head = Calip(-torch.eye(3)[:2], 100.0, LARGEST_FACTOR, 1.0, 1.0)
    exact = Calip(-torch.eye(3, dtype=torch.float64)[:2], 100.0, LARGEST_FACTOR, 1.0, 1.0)
    image = torch.ones(2, 3)
    torch.testing.assert_close(
        head(image, spatial), exact(image.double(), spatial.double()).float()
    )
    for factor in (41.0, float("nan")):
        with pytest.raises(UserError, match=rf"attention_factor={factor}: give 40 at most"):
            Calip(torch.eye(3), 100.0, factor, 1.0, 1.0)


def test_calip_without_its_terms_is_zero_shot():
    generator = torch.Generator().manual_seed(0)
    image, spatial, text = (
        torch.randn(*shape, generator=generator) for shape in ((3, 8), (3, 5, 8), (4, 8))
    )
    calip = Calip(text, 100.0, attention_factor=2.0, beta2=0.0, beta3=0.0)
    torch.testing.assert_close(calip(image, spatial), ZeroShot(text, 100.0)(image))


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_lengths_of_features_do_not_matter(scale):
    generator = torch.Generator().manual_seed(1)
    image, spatial, text = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((3, 8), (3, 5, 8), (4, 8))
    )
    head = Calip(text, 100.0, 2.0, 1.12, 0.02)
    torch.testing.assert_close(head(image, spatial), head(scale * image, scale * spatial))


def test_calip_does_not_depend_on_how_images_are_cut_into_chunks(monkeypatch):
    generator = torch.Generator().manual_seed(2)
    image, spatial, text = (
        torch.randn(*shape, generator=generator) for shape in ((7, 8), (7, 5, 8), (4, 8))
    )
    head = Calip(text, 100.0, 2.0, 1.12, 0.02)
    whole = head(image, spatial)
    for affinities in (1, 3 * 5 * 4):
        monkeypatch.setattr("src.heads.calip.AFFINITIES_PER_CHUNK", affinities)
        torch.testing.assert_close(head(image, spatial), whole)


def test_bfloat16_attention_rounds_what_is_attended_to_and_nothing_else():
    generator = torch.Generator().manual_seed(3)
    image, spatial, text = (
        torch.randn(*shape, generator=generator) for shape in ((20, 64), (20, 9, 64), (5, 64))
    )
    full, rounded = (
        Calip(text, 100.0, 2.0, 1.12, 0.02, half).terms(image, spatial) for half in (False, True)
    )
    torch.testing.assert_close(rounded[0], full[0], atol=0, rtol=0)
    for exact, found in zip(full[1:], rounded[1:], strict=True):
        assert found.dtype == torch.float32
        assert 0 < (found - exact).abs().max() < 0.01 * exact.abs().max()
