"""The example worked out by hand: each number of the page against the package's solvers and against a closed form."""

import contextlib
import io
import re

import numpy as np
import pytest

from repro.base.files import repo_root
from repro.book import by_hand

TEXT = (repo_root() / "book" / "by-hand.md").read_text()
TUPLE = re.compile(r"\(?(-?[\d.]+(?:,\\? ?-?[\d.]+)*)\)?")


def worked() -> dict[str, list[float]]:
    """Each line `name &= ... = numbers` of the page: name -> its numbers."""
    out = {}
    for name, rest in re.findall(r"^([^&\n]+?) &= (.*?)(?: \\\\)?$", TEXT, flags=re.M):
        found = TUPLE.fullmatch(rest.split(" = ")[-1].removeprefix("= "))
        assert found, f"{name} ends in no number"
        out[name] = [float(number) for number in re.split(r",\\? ?", found[1])]
    return out


@pytest.mark.parametrize("name, numbers", worked().items(), ids=worked())
def test_every_number_of_the_page_is_the_solvers(name, numbers):
    """To the digits that the page prints."""
    np.testing.assert_allclose(np.ravel(by_hand.values()[name]), numbers, atol=5.1e-5)


def test_the_page_works_out_the_whole_example():
    names = {"z_a", "z^{(1)}", "z^\\star", "z_{p2}", "L", "Q(v_a)", "J(z_a) - Q(v_a)", "J(z_a) - J(z^\\star)"}
    assert names <= set(worked()) <= set(by_hand.values())


def test_the_optimum_is_the_closed_form():
    """On the support {1, 2} r d_1 = r d_2 = lam gives the residual, x - r = z_1 d_1 + z_2 d_2 the code."""
    atoms, x = np.array(by_hand.ATOMS), np.array(by_hand.X)
    r = np.linalg.solve(atoms[:2], [by_hand.LAM] * 2)
    z = np.linalg.solve(atoms[:2].T, x - r)
    value = by_hand.values()
    np.testing.assert_allclose(value["z^\\star"], [*z, 0], atol=1e-9)
    assert (z > 0).all() and atoms[2] @ r < by_hand.LAM
    assert value["J(z^\\star)"] == pytest.approx(0.5 * r @ r + by_hand.LAM * z.sum(), abs=1e-12)
    assert value["L"] == pytest.approx(np.linalg.eigvalsh(atoms.T @ atoms)[-1])


def test_what_the_page_says_of_the_steps_is_so():
    steps = by_hand.walk()
    assert len(steps) == by_hand.STEPS + 1
    assert [k for k, s in enumerate(steps) if s.z[2] == 0][:2] == [0, 8] and steps[7].z[2] > 0
    J, Q = np.array([s.J for s in steps]), np.array([s.Q for s in steps])
    assert (np.diff(J) < 0).all() and (J > 0.58).all() and (Q < 0.58).all()
    assert (np.diff(Q[1:8]) < 0).all() and (np.diff(Q[8:]) > 0).all()
    assert all(np.dot(by_hand.ATOMS, s.v).max() <= by_hand.LAM + 1e-12 for s in steps)


def test_the_picture_is_spoken_and_stops_for_those_who_want_no_motion():
    picture = by_hand.picture(by_hand.walk())
    assert "\n\n" not in picture  # an empty line would end the HTML within the markdown
    assert 'role="img" aria-label="' in picture and "<figcaption>" in picture and "http" not in picture
    assert "prefers-reduced-motion:reduce" in picture and 'type="checkbox"' in picture
    assert len(picture) < 20_000


def test_the_code_of_the_page_runs():
    (block,) = re.findall(r"^```python\n(.*?)^```", TEXT, flags=re.S | re.M)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(block, "book/by-hand.md", "exec"), {})
    assert "0.5800" in printed.getvalue()
