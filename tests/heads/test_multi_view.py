import pytest
import torch

from src.errors import UserError
from src.heads.calip import Calip
from src.heads.multi_view import MultiView
from src.heads.support import Support
from src.heads.tip_adapter import TipAdapter
from src.methods.view_search import VIEW_WEIGHTS, ViewSearch

N, V, S, C, D = 5, 3, 4, 3, 6
WEIGHTS = [1.0, 0.5, 2.5]


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(0)
    shapes = ((N, V, D), (N, V, S, D), (C, D))
    return [torch.randn(*shape, generator=generator) for shape in shapes]


def summed(logits):
    return sum(weight / 4 * logits[view] for view, weight in enumerate(WEIGHTS))


def test_logits_and_lines_are_the_weighted_sums_of_each_views(features):
    image, spatial, text = features
    head = Calip(text, 20.0, 2.0, 1.1, 0.3)
    views = [(image[:, view], spatial[:, view]) for view in range(V)]
    several = MultiView(head, WEIGHTS)
    torch.testing.assert_close(several(image, spatial), summed([head(*view) for view in views]))
    for value, (base, direction) in zip(
        (0.1, 1.1), several.lines((0.1, 1.1), image, spatial), strict=True
    ):
        head.beta2 = value
        torch.testing.assert_close(base + 0.3 * direction, several(image, spatial))


def test_a_cache_holds_every_view_of_every_object(features):
    image, _, text = features
    label = torch.arange(N) % C
    head, plain = TipAdapter(text, 20.0, 2.0, 3.0), TipAdapter(text, 20.0, 2.0, 3.0)
    several = MultiView(head, WEIGHTS)
    several.prepare(Support({"global": image.unsqueeze(0)}, label))
    assert head.keys.shape == (N * V, D)
    rows = [(image[n, view], label[n]) for n in range(N) for view in range(V)]
    keys = torch.stack([row for row, _ in rows]).unsqueeze(0)
    plain.prepare(Support({"global": keys}, torch.stack([of for _, of in rows])))
    torch.testing.assert_close(several(image), summed([plain(image[:, view]) for view in range(V)]))


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [3e38, 3e38]])
def test_impossible_weights_are_refused(features, weights):
    with pytest.raises(UserError, match="view_weights"):
        MultiView(Calip(features[2], 20.0, 2.0, 1.1, 0.3), weights)


class Views:
    def each_view(self, logits):
        return logits


def right(logits, label, weights):
    return int(((logits * torch.tensor(weights)[:, None]).sum(1).argmax(1) == label).sum())


def searched(mode, logits, label):
    search = ViewSearch(mode)
    for rows in torch.arange(len(label)).split(7):
        search.add(Views(), [logits[rows]], label[rows])
    return search.best()


def drawn(seed, n, views):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, views, C, generator=generator)
    return logits, torch.randint(C, (n,), generator=generator)


@pytest.mark.parametrize("seed", range(3))
def test_six_views_are_searched_as_pointclips_release_does(seed):
    """Six loops over the four weights, the last view's innermost; only a better one wins."""
    logits, label = drawn(seed, 12, 6)
    best, first = -1, None
    for a in (0.25, 0.5, 0.75, 1.0):
        for b in (0.25, 0.5, 0.75, 1.0):
            for c in (0.25, 0.5, 0.75, 1.0):
                for d in (0.25, 0.5, 0.75, 1.0):
                    for e in (0.25, 0.5, 0.75, 1.0):
                        for f in (0.25, 0.5, 0.75, 1.0):
                            count = right(logits, label, [a, b, c, d, e, f])
                            if count > best:
                                best, first = count, [a, b, c, d, e, f]
    choice = searched("grid", logits, label)
    assert choice.settings["view_weights"] == first
    assert choice.accuracy == pytest.approx(100 * best / 12)
    exact = searched("exact", logits, label)
    assert exact.accuracy == choice.accuracy
    assert right(logits, label, exact.settings["view_weights"]) == best


@pytest.mark.parametrize("seed", range(5))
def test_the_search_over_ten_views_ends_where_no_single_weight_could_be_better(seed):
    logits, label = drawn(seed, 40, 10)
    choice = searched("exact", logits, label)
    weights = choice.settings["view_weights"]
    best = right(logits, label, weights)
    assert choice.accuracy == pytest.approx(100 * best / 40)
    assert best >= right(logits, label, [1.0] * 10)
    for view in range(10):
        for value in VIEW_WEIGHTS:
            assert right(logits, label, [*weights[:view], value, *weights[view + 1 :]]) <= best


@pytest.mark.parametrize("views", [3, 10])
def test_a_view_that_only_misleads_is_weighed_down_and_ties_change_nothing(views):
    label = torch.arange(30) % C
    truth = torch.nn.functional.one_hot(label, C).float()
    blind = [torch.zeros_like(truth)] * (views - 3)
    wrong = [0.6 * truth.roll(1, 0)] * 2 + blind
    for logits, expected in (
        (torch.stack([truth, *wrong], dim=1), False),
        (truth.unsqueeze(1).expand(-1, views, -1), True),
    ):
        choice = searched("exact", logits, label)
        assert choice.accuracy == 100
        assert (choice.settings["view_weights"] == [1.0] * views) == expected
