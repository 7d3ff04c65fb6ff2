"""Three tiny hospitals and a plan for them."""

from pathlib import Path

import pytest

from medseg.cases.formats import save_dataset
from medseg.federation.coordinator import begin_run
from medseg.federation.messages import Transport
from medseg.federation.policy import SitePolicy
from medseg.federation.run_settings import RunSettings
from medseg.federation.run_state import RoundPolicy, RunState
from medseg.federation.site import Site
from medseg.federation.strategies import StrategyName, settings_for

from tiny import TABLE, tiny_plan, write_tiny_dataset

NAMES = ("east", "north", "west")


def make_site(name: str, data: Path, folder: Path, **policy: object) -> Site:
    """A site on the dataset in ``data``, with a policy that lets two held-out cases be looked at."""
    rules = SitePolicy.model_validate({"min_count": 1, **policy})
    return Site(name, data / "dataset.yaml", folder, rules, device="cpu")


@pytest.fixture(scope="session")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder with five cases of its own for each name."""
    folder = tmp_path_factory.mktemp("hospitals")
    for number, name in enumerate(NAMES):
        save_dataset(write_tiny_dataset(folder / name, 5, 10 * number), folder / name / "dataset.yaml")
    return {name: folder / name for name in NAMES}


@pytest.fixture
def sites(hospitals: dict[str, Path], tmp_path: Path) -> list[Site]:
    """The three sites, with folders of their own."""
    return [make_site(name, hospitals[name], tmp_path / "sites" / name) for name in NAMES]


def begun(
    transport: Transport, folder: Path, strategy: StrategyName = "fedavg", policy: RoundPolicy | None = None, **more
) -> RunState:
    """A run of two rounds of one iteration over a transport's sites, prepared and written to ``folder``."""
    settings = settings_for(strategy, RunSettings(**{"rounds": 2, "steps": 1, **more}), more)
    quick = policy or RoundPolicy(deadline=1, grace=0, retries=0)
    return begin_run(transport, folder, "run", tiny_plan(), TABLE, transport.sites(), strategy, settings, quick)
