"""What operations do to dimensions: they *unify* two (both hold the same units), *cut* one, merge several, factor one.

Nothing here raises for dimensions that do not align: the answer is False or None, and the caller pins.
"""

from __future__ import annotations

from collections import deque

from niwaki.spaces.axes import ONE, Atom, Dim, Product, dim_size, leaves, new, pin, product_size, refine, resolve


def unify(a: Dim, b: Dim, reason: str) -> bool:
    """Make both dimensions hold the same units, position by position, cutting atoms where the boundaries differ.

    Where that is impossible (sizes or factors do not align) both are pinned with ``reason`` and False is returned.
    """
    left, right = deque(resolve(a)), deque(resolve(b))
    if left == right:
        return True
    if dim_size(a) != dim_size(b):
        return _give_up(a, b, reason)
    while left and right:
        if _refine(left) or _refine(right):
            continue
        x, y = left[0], right[0]
        if product_size(x) == product_size(y):
            left.popleft()
            right.popleft()
            if not _unify_products(x, y):
                return _give_up(a, b, reason)
        elif not _cut_front(left, right):
            return _give_up(a, b, reason)
    return True


def _give_up(a: Dim, b: Dim, reason: str) -> bool:
    pin(a, reason)
    pin(b, reason)
    return False


def _refine(queue: deque[Product]) -> bool:
    """Replace the front segment by its finer form where an earlier step bound one of its atoms."""
    finer = list(refine(queue[0]))
    if finer == [queue[0]]:
        return False
    queue.popleft()
    queue.extendleft(reversed(finer))
    return True


def _cut_front(left: deque[Product], right: deque[Product]) -> bool:
    """Cut the longer front segment to the length of the shorter one."""
    queue, n = (
        (left, product_size(right[0]))
        if product_size(left[0]) > product_size(right[0])
        else (right, product_size(left[0]))
    )
    parts = cut(queue[0], n)
    if parts is None:
        return False
    queue.popleft()
    queue.extendleft(reversed(parts))
    return True


def cut(product: Product, n: int) -> tuple[Product, Product] | None:
    """Cut a segment into its first ``n`` positions and the rest, by cutting its outermost atom; None if impossible."""
    if not product:
        return None
    outer, inner = product[0], product[1:]
    width = product_size(inner)
    if n % width or outer.bind is not None or outer.batch:
        return None
    first, rest = _child(outer, n // width), _child(outer, outer.size - n // width)
    outer.bind = ((first,), (rest,))
    return (first, *inner), (rest, *inner)


def _child(parent: Atom, size: int) -> Atom:
    atom = Atom(size, parent.pin)
    atom.exact = parent.exact
    return atom


def split_factors(atom: Atom, outer: int) -> tuple[Atom, Atom] | None:
    """Bind an atom to (outer, size // outer); None if it does not divide or is not free."""
    if atom.bind is not None or atom.size % outer or atom.batch:
        return None
    a, b = _child(atom, outer), _child(atom, atom.size // outer)
    atom.bind = ((a, b),)
    return a, b


def _unify_products(p: Product, q: Product) -> bool:
    left, right = list(p), list(q)
    while left and right:
        if _expand(left) or _expand(right):
            continue
        x, y = left[0], right[0]
        if x.size == y.size:
            left.pop(0)
            right.pop(0)
            if not _unify_atoms(x, y):
                return False
            continue
        longer, shorter = (left, right) if x.size > y.size else (right, left)
        parts = split_factors(longer[0], shorter[0].size)
        if parts is None:
            return False
        longer[:1] = list(parts)
    return not left and not right


def _expand(factors: list[Atom]) -> bool:
    """Replace the first factor by its own factors where an earlier step bound it to a product."""
    bind = factors[0].bind
    inner = resolve(bind) if bind is not None else None
    if inner is None or len(inner) > 1:
        return False
    factors[:1] = list(inner[0])
    return True


def _unify_atoms(x: Atom, y: Atom) -> bool:
    if x is y:
        return True
    rx, ry = resolve(((x,),)), resolve(((y,),))
    if len(rx) == len(ry) == 1 and len(rx[0]) == len(ry[0]) == 1:
        x, y = rx[0][0], ry[0][0]
        if x is y:
            return True
        if x.batch != y.batch:
            return False
        if x.bind is None or y.bind is None:
            free, other = (y, x) if y.bind is None else (x, y)
            _bind(free, ((other,),))
            return True
        return unify(x.bind, y.bind, "two sums that do not align")
    if len(ry) == 1 and len(ry[0]) == 1 and ry[0][0].bind is None:
        _bind(ry[0][0], rx)
        return True
    if len(rx) == 1 and len(rx[0]) == 1 and rx[0][0].bind is None:
        _bind(rx[0][0], ry)
        return True
    return unify(rx, ry, "two dimensions that do not align")


def _bind(free: Atom, dim: Dim) -> None:
    for atom in leaves(dim):
        atom.pin = atom.pin or free.pin
        atom.exact = atom.exact and free.exact
    free.bind = dim


def chunks(dim: Dim, sizes: list[int]) -> list[Dim] | None:
    """Cut a dimension into consecutive parts of the given sizes (split, chunk, slice); None if it cannot be cut."""
    queue = deque(resolve(dim))
    parts: list[Dim] = []
    for size in sizes:
        part: list[Product] = []
        missing = size
        while missing:
            front = queue.popleft()
            if product_size(front) > missing:
                two = cut(front, missing)
                if two is None:
                    return None
                front = two[0]
                queue.appendleft(two[1])
            part.append(front)
            missing -= product_size(front)
        parts.append(tuple(part))
    return parts


def merge(dims: list[Dim]) -> Dim:
    """The dimension that a reshape makes of several, the first being the outermost."""
    resolved = [resolve(d) for d in dims]
    factors: list[Atom] = []
    for d in resolved[1:]:
        if len(d) == 1:
            factors.extend(d[0])
        else:
            nested = Atom(dim_size(d))
            nested.bind = d
            factors.append(nested)
    return tuple(segment + tuple(factors) for segment in resolved[0])


def split(dim: Dim, sizes: list[int]) -> list[Dim] | None:
    """Factor a dimension into ``sizes`` (outermost first); None if its atoms do not divide that way."""
    if len(sizes) == 1:
        return [dim]
    resolved = resolve(dim)
    outer, inner = sizes[0], dim_size(dim) // sizes[0]
    if outer == 1:
        rest = split(dim, sizes[1:])
        return None if rest is None else [ONE, *rest]
    parts = _split_sum(resolved, outer, inner) if len(resolved) > 1 else _split_product(resolved[0], outer)
    if parts is None:
        return None
    rest = split(parts[1], sizes[1:])
    return None if rest is None else [parts[0], *rest]


def _split_product(product: Product, outer: int) -> tuple[Dim, Dim] | None:
    head: list[Atom] = []
    todo, missing = list(product), outer
    while missing > 1:
        if not todo:
            return None
        atom = todo[0]
        if missing % atom.size == 0:
            head.append(todo.pop(0))
            missing //= atom.size
            continue
        two = split_factors(atom, missing) if atom.size % missing == 0 else None
        if two is None:
            return None
        head.append(two[0])
        todo[0] = two[1]
        missing = 1
    return (tuple(head),), (tuple(todo),)


def _split_sum(dim: Dim, outer: int, inner: int) -> tuple[Dim, Dim] | None:
    """(a + b) -> outer x inner: either every segment is a multiple of inner, or the sum is cut into equal chunks."""
    if all(product_size(p) % inner == 0 for p in dim):
        heads: list[Product] = []
        tail: Dim | None = None
        for segment in dim:
            parts = split((segment,), [product_size(segment) // inner, inner])
            if parts is None or (tail is not None and not unify(tail, parts[1], "a reshape across a concatenation")):
                return None
            heads.extend(parts[0])
            tail = parts[1]
        assert tail is not None
        return tuple(heads), tail
    parts_ = chunks(dim, [inner] * outer)
    if parts_ is None:
        return None
    for part in parts_[1:]:
        if not unify(parts_[0], part, "a reshape across a concatenation"):
            return None
    return new(outer, "the number of equal chunks"), parts_[0]
