"""The broken files of C10 are broken as their names say, and medseg's check finds every one."""

from medseg.benchmarking.faults import FAULTS, write_faulty
from medseg.cases.check import check_dataset


def test_every_fault_is_found_by_the_check(tmp_path):
    found = write_faulty(tmp_path)
    assert set(found) == set(FAULTS)
    for name, folder in found.items():
        complaints = [one for one in check_dataset(folder) if one.case]
        assert complaints, name
        assert all("case_001" in one.case for one in complaints), name
