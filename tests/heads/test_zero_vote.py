import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from src.errors import UserError
from src.heads.zero_shot import ZeroShot
from src.heads.zero_vote import ZeroVote
from tests.heads import plain

SCALE = 20.0


def problem(seed, n=6, k=6, c=3, d=5):
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(c, d, generator=generator, dtype=torch.float64)
    return torch.randn(n, k, d, generator=generator, dtype=torch.float64), text


def released(crops, text, kept):
    """Follow the release line by line for one image, in float64.

    Returns:
        The votes, the classes that have most of them, and whether a crop decides between these;
        where none does, the release goes on to an index that is negated by mistake.
    """
    x, t = (
        torch.tensor([plain.normalized(row) for row in rows.tolist()]) for rows in (crops, text)
    )
    x, t = x.double(), t.double()
    logits = x @ t.T
    probability = (logits * SCALE).softmax(1)
    entropy = -(probability * probability.log()).sum(1)
    voting = int(len(x) * kept)
    filtered = logits[torch.argsort(entropy)[:voting]]
    votes = (filtered / torch.finfo(logits.dtype).eps).softmax(1).sum(0)
    tied = [one for one in range(len(votes)) if votes[one] == votes.max()]
    if len(tied) == 1:
        return votes, tied, True
    for prediction in logits[voting:].argmax(dim=1).tolist():
        if prediction in tied:
            votes[prediction] += 1
            return votes, tied, True
    return votes, tied, False


@given(st.integers(0, 2**31), st.integers(2, 12), st.integers(2, 5), st.floats(0.1, 1))
def test_votes_are_those_of_the_release(seed, k, c, kept):
    crops, text = problem(seed, k=k, c=c)
    head = ZeroVote(text, SCALE, kept)
    found = head(crops).softmax(dim=-1)
    voting = max(1, int(k * kept))
    for of_image, share in zip(crops, found, strict=True):
        votes, tied, decided = released(of_image, text, max(kept, 1 / k))
        if not decided:
            crop = of_image[min(voting, k - 1)].tolist()
            similarity = plain.zero_shot(crop, text.tolist(), 1.0)
            votes[max(tied, key=lambda one: similarity[one])] += 1
        torch.testing.assert_close(share, votes / votes.sum())


def crops_for(*similarities):
    """Make crops of given similarities to classes along the first axes."""
    rows = [[*row, math.sqrt(max(0, 1 - sum(value**2 for value in row)))] for row in similarities]
    return torch.tensor([rows]), torch.eye(len(similarities[0]), len(similarities[0]) + 1)


def test_a_tie_is_broken_by_the_first_later_crop_that_is_for_one_of_the_classes():
    crops, text = crops_for(
        [0.9, 0.1, 0.0, 0.2], [0.1, 0.9, 0.0, 0.2],  # two votes, one each
        [0.0, 0.1, 0.3, 0.2],  # for another class
        [0.1, 0.4, 0.0, 0.2],  # decides
        [0.3, 0.2, 0.0, 0.1],
    )  # fmt: skip
    shares = ZeroVote(text, SCALE, 0.4)(crops).softmax(dim=-1)
    torch.testing.assert_close(shares, torch.tensor([[1.0, 2.0, 0.0, 0.0]]) / 3)
    without = ZeroVote(text, SCALE, 0.5)(crops[:, [0, 1, 2, 4]])
    assert without.argmax(dim=-1).item() == 0


def test_where_no_later_crop_is_for_one_of_them_the_next_crop_s_similarities_decide():
    crops, text = crops_for([0.9, 0.1, 0.0], [0.1, 0.9, 0.0], [0.1, 0.2, 0.4], [0.2, 0.1, 0.4])
    assert ZeroVote(text, SCALE, 0.5)(crops).argmax(dim=-1).item() == 1
    assert ZeroVote(text, SCALE, 1.0)(crops[:, :2]).argmax(dim=-1).item() == 1
    assert ZeroVote(text, SCALE, 1.0)(crops[:, [1, 0]]).argmax(dim=-1).item() == 0


def test_classes_without_a_vote_come_last_by_their_similarity_to_crops_that_vote():
    crops, text = crops_for([0.1, 0.2, 0.9, 0.0], [0.1, 0.2, 0.9, 0.0], [0.5, 0.0, 0.0, 0.1])
    logits = ZeroVote(text, SCALE, 0.7)(crops)
    assert logits.argsort(dim=-1, descending=True).tolist() == [[2, 1, 0, 3]]
    assert logits.isfinite().all()
    assert logits.softmax(dim=-1)[0, 2] == 1
    assert ZeroVote(text.double(), SCALE, 0.7)(crops.double()).isfinite().all()


def test_equal_crops_are_for_zero_shot_s_class_and_an_image_depends_on_no_other():
    crops, text = problem(3, n=40, k=5)
    head = ZeroVote(text, SCALE, 0.3)
    equal = crops[:, :1].expand(-1, 5, -1)
    expected = ZeroShot(text, SCALE)(crops[:, 0]).argmax(dim=-1)
    assert torch.equal(head(equal).argmax(dim=-1), expected)
    torch.testing.assert_close(head(crops)[7:9], head(crops[7:9]))
    single = ZeroVote(text.float(), SCALE, 0.3)(crops[:, :2].float())
    assert single.dtype == torch.float32
    assert single.isfinite().all()


@pytest.mark.parametrize("kept", [0.0, -0.1, 1.1])
def test_a_share_out_of_range_is_refused(kept):
    with pytest.raises(UserError, match=r"method\.head\.kept="):
        ZeroVote(torch.eye(3), SCALE, kept)
