"""What rules do with a stack, block by block: weighted sums, values chosen by element, distances.

Every element is worked on alone and clients in one order, so that neither the order of arrival nor the number of
threads nor where a block ends changes a bit of a model. Memory is one model and a few blocks.
"""

from __future__ import annotations

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.aggregation.spool import gather
from fedmb.aggregation.stack import matrix_of
from fedmb.arrays.bfloat16 import BFLOAT16, rounded
from fedmb.update import add_weighted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import ModuleType

    from numpy.typing import NDArray

    from fedmb.aggregation.layout import Block
    from fedmb.aggregation.stack import Stack
    from fedmb.update import Arrays

    Model = dict[str, NDArray[Any]]

THREADS = 2  # numpy lets the interpreter go inside a block; a third thread would wait for memory
_SUMMED = 1 << 15  # elements: sum and product, 512 KiB in float64, stay in a core's cache
_CELLS = 1 << 18  # values of all clients together where they must lie side by side
_WORTH_COMPILING = 1 << 22  # values to be summed: some 10 ms of numpy; numba's import is a second, once a process
_NARROWEST = 1 << 10  # elements: below, Python's share of a block outweighs numpy's


def weighted_sum(
    stack: Stack, coefficients: NDArray[np.float64], divisor: float, *, beside: tuple[Arrays, float] | None = None
) -> Model:
    """Sum of `coefficients * models` over `divisor`, floating arrays in their dtypes; others are left unwritten.

    Args:
        stack: the models.
        coefficients: one a client; clients of coefficient 0 are not read.
        divisor: what the sum is divided by, once.
        beside: one more model with its coefficient, added last.
    """
    terms = [(kept, float(one)) for kept, one in zip(stack.rows(), coefficients, strict=True) if one]
    if beside is not None:
        terms.append((stack.beside(beside[0]), beside[1]))
    kernels = compiled() if len(terms) * stack.layout.num_floating >= _WORTH_COMPILING else None
    model = stack.layout.empty()
    flat = {name: array.reshape(-1) for name, array in model.items()}

    def work(blocks: Iterator[Block]) -> None:
        totals, scratch = np.empty(_SUMMED), np.empty(_SUMMED)
        for block in blocks:
            total, gathered = totals[: block.size], scratch[: block.size]
            total.fill(0.0)
            if kernels is not None and block.run.dtype in kernels.SUMMED:
                kernels.add_all(total, ((kept.parts(block), coefficient) for kept, coefficient in terms))
            else:
                for kept, coefficient in terms:
                    gather(kept, block, gathered)
                    add_weighted(total, gathered, coefficient, gathered)
            total /= divisor
            _write(flat, block, total)

    _shared(stack.layout.blocks(_SUMMED, floating=True), work)
    return model


def by_element(
    stack: Stack, floats: Callable[[NDArray[Any]], NDArray[Any]], others: Callable[[NDArray[Any]], NDArray[Any]]
) -> Model:
    """A model whose every element comes from that element of all clients.

    Args:
        stack: the models.
        floats: takes `(clients, elements)`, each column in rising order, and answers `(elements,)`.
        others: the same for integers and booleans.
    """
    rows = stack.rows()
    model = stack.layout.empty()
    flat = {name: array.reshape(-1) for name, array in model.items()}
    for floating, choose in ((True, floats), (False, others)):

        def work(blocks: Iterator[Block], choose: Callable[[NDArray[Any]], NDArray[Any]] = choose) -> None:
            for block in blocks:
                dtype = block.run.dtype
                is_short = dtype in (np.dtype(np.float16), BFLOAT16)
                matrix = matrix_of(rows, block, np.dtype(np.float32) if is_short else dtype)
                matrix.sort(axis=0)
                _write(flat, block, choose(matrix))

        _shared(stack.layout.blocks(_width(len(rows)), floating=floating), work)
    return model


def take_whole(stack: Stack, model: Model, client: str) -> Model:
    """`model` with the integers and booleans of one client, as they are: a counter is a fact and has no mean."""
    kept = stack.rows()[stack.clients.index(client)]
    flat = {name: array.reshape(-1) for name, array in model.items()}
    for block in stack.layout.blocks(_SUMMED, floating=False):
        values = np.empty(block.size, block.run.dtype)
        gather(kept, block, values)
        _write(flat, block, values)
    return model


def gram(stack: Stack, before: Arrays) -> NDArray[np.float64]:
    """Inner products of the clients' changes of the floating arrays, `(clients, clients)`.

    Of changes and not of models, since what all clients have in common is far longer than what they differ by, and
    not from the clients' middle, since one that is far off carries that away: either would leave no digits for the
    distances between honest clients.
    """
    rows, start = stack.rows(), stack.beside(before)
    products = np.zeros((len(rows), len(rows)))
    for block in stack.layout.blocks(_width(len(rows)), floating=True):
        matrix = matrix_of(rows, block, np.dtype(np.float64))
        matrix -= matrix_of([start], block, np.dtype(np.float64))
        with np.errstate(over="ignore", invalid="ignore"):  # whoever is so far off is no neighbour of anybody
            products += matrix @ matrix.T
    return products


def squared_distances(products: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared distances between models, `(clients, clients)`, from inner products; infinite where none is known."""
    squares = np.diag(products)
    with np.errstate(invalid="ignore"):
        found = squares[:, None] + squares[None, :] - 2 * products
    found = np.where(np.isnan(found), np.inf, np.maximum(found, 0.0))
    np.fill_diagonal(found, 0.0)
    return found


def changes(
    stack: Stack, before: Arrays, coefficients: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.float64], float]:
    """Squared lengths of the clients' changes of the floating arrays, and that of the sum of `coefficients * changes`.

    Args:
        stack: the models after training.
        before: the model that all of them started from.
        coefficients: one a client; without them the second answer is 0.
    """
    rows, start = stack.rows(), stack.beside(before)
    squares, together = np.zeros(len(rows)), 0.0
    for block in stack.layout.blocks(_width(len(rows)), floating=True):
        matrix = matrix_of(rows, block, np.dtype(np.float64))
        matrix -= matrix_of([start], block, np.dtype(np.float64))
        with np.errstate(over="ignore"):
            squares += np.einsum("ce,ce->c", matrix, matrix)
        if coefficients is not None:
            sum_ = coefficients @ matrix
            together += float(sum_ @ sum_)
    return squares, together


def compiled() -> ModuleType | None:
    """The compiled step, where numba is installed; the bits are the same without it."""
    if importlib.util.find_spec("numba") is None:
        return None
    from fedmb.aggregation import sum_kernels

    return sum_kernels


def _width(clients: int) -> int:
    return max(_NARROWEST, _CELLS // max(1, clients))


def _write(flat: Model, block: Block, values: NDArray[Any]) -> None:
    """Put a block's values into the arrays where they belong, in their dtypes."""
    if block.run.dtype == BFLOAT16:
        values = rounded(values)
    for piece in block.pieces:
        flat[piece.field.name][piece.start : piece.stop] = values[piece.at : piece.at + piece.stop - piece.start]


def _shared(blocks: Sequence[Block], work: Callable[[Iterator[Block]], None]) -> None:
    """Let threads take blocks one after the other until none is left; what one raises is raised."""
    left = iter(blocks)
    threads = min(THREADS, len(blocks))
    if threads <= 1:
        work(left)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="aggregation") as pool:
        for done in [pool.submit(work, left) for _ in range(threads)]:
            done.result()
