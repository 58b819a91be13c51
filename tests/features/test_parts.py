import threading

import pytest
import torch

from src.features.parts import AT_A_TIME, in_parts

IMAGES = torch.randn(3 * AT_A_TIME + 1, 5)


@pytest.fixture(params=[1, 2, 3, 4])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_features_come_in_the_order_of_the_images(threads):
    found = in_parts(lambda images: {"twice": 2 * images, "sum": images.sum(dim=1)}, IMAGES)
    assert torch.equal(found["twice"], 2 * IMAGES)
    assert torch.equal(found["sum"], IMAGES.sum(dim=1))


def test_the_parts_are_the_same_and_share_the_threads_evenly(threads):
    seen, sizes, together = set(), [], threading.Barrier(threads if threads in (2, 4) else 1)

    def encode(images):
        together.wait(timeout=20)
        seen.add(torch.get_num_threads())
        sizes.append(len(images))
        return {"global": images}

    in_parts(encode, IMAGES)
    assert sorted(sizes) == [1, AT_A_TIME, AT_A_TIME, AT_A_TIME]
    assert seen == {1 if threads in (2, 4) else threads}
    assert torch.get_num_threads() == threads
    later = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [threads]


def test_what_a_part_raises_is_raised(threads):
    def encode(images):
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        in_parts(encode, IMAGES)
