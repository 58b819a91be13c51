import pytest
import torch

from src.errors import UserError
from src.heads.calip import Calip
from src.heads.multi_view import MultiView
from src.heads.support import Support
from src.heads.tip_adapter import TipAdapter
from src.methods.search import VIEW_WEIGHTS, ViewSearch

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


@pytest.mark.parametrize("seed", range(5))
def test_the_search_ends_where_no_single_weight_could_be_better(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(40, V, C, generator=generator)
    label = torch.randint(C, (40,), generator=generator)
    search = ViewSearch()
    for rows in torch.arange(40).split(7):
        search.add(Views(), [logits[rows]], label[rows])
    choice = search.best()
    weights = choice.settings["view_weights"]
    best = right(logits, label, weights)
    assert choice.accuracy == pytest.approx(100 * best / 40)
    assert best >= right(logits, label, [1.0] * V)
    for view in range(V):
        for value in VIEW_WEIGHTS:
            assert right(logits, label, [*weights[:view], value, *weights[view + 1 :]]) <= best


def test_a_view_that_only_misleads_is_weighed_down_and_ties_change_nothing():
    label = torch.arange(30) % C
    truth = torch.nn.functional.one_hot(label, C).float()
    misled = torch.stack([truth, 0.6 * truth.roll(1, 0), 0.6 * truth.roll(1, 0)], dim=1)
    for logits, expected in ((misled, False), (truth.unsqueeze(1).expand(-1, V, -1), True)):
        search = ViewSearch()
        search.add(Views(), [logits], label)
        choice = search.best()
        assert choice.accuracy == 100
        assert (choice.settings["view_weights"] == [1.0] * V) == expected
