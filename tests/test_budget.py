"""The budget of pixels that are decoded at the same time."""

from __future__ import annotations

import threading
import time

import pytest

from item_jax.budget import PixelBudget

# ---------------------------------------------------------------------------- memory


def test_a_budget_of_pixels():
    budget = PixelBudget(10)
    running, most, order = [0], [0], []
    lock = threading.Lock()

    def work(pixels):
        with budget.hold(pixels):
            with lock:
                running[0] += pixels
                most[0] = max(most[0], running[0])
            time.sleep(0.002)
            with lock:
                running[0] -= pixels
                order.append(pixels)

    sizes = [4, 3, 2, 10, 5, 1] * 20
    threads = [threading.Thread(target=work, args=(n,)) for n in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert sorted(order) == sorted(sizes) and most[0] <= 10
    with budget.hold(50):  # more than there is: alone
        waiting = threading.Thread(target=work, args=(1,))
        waiting.start()
        waiting.join(timeout=0.05)
        assert waiting.is_alive()
    waiting.join(timeout=5)
    with pytest.raises(RuntimeError), budget.hold(10):
        raise RuntimeError
    work(10)  # an error gives back what was held
