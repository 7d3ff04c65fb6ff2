"""The interactive view (WebGL). Until it is there, the slice view is shown and this says so."""

from texts import text

from medseg.review.cache import OpenCase
from medseg.review.view import View


def interactive_view(case: OpenCase, state: View) -> str | None:  # noqa: ARG001
    """Draw the Case as ``state`` says. Returns None, or one sentence that says why the slice view is shown instead."""
    return text("view.no_interactive")
