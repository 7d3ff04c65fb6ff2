"""The arithmetic of private training on the command line."""

from medseg.cli import main


def test_the_cost_of_a_training_is_shown_by_both_accountants_beside_what_the_noise_does(capsys):
    words = ["patients=[50]", "rounds=20", "steps=10", "drawn=8", "noise_multiplier=1", "parameters=1000000"]
    assert main(["federated", "privacy-cost", *words]) == 0
    shown = capsys.readouterr().out
    cells = [cell.strip() for cell in next(line for line in shown.splitlines() if "0.16" in line).split("│")[1:-1]]
    assert cells[:4] == ["50", "0.16", "0.002", "1.00"]
    rdp, tight = float(cells[4]), float(cells[5])
    # Measured apart from this project with PRV: 11.7.
    assert 11.6 < tight < 11.8 < rdp < 14
    assert cells[6] == "125"  # 1 * sqrt(1e6) / 8


def test_a_target_says_which_noise_it_needs(capsys):
    assert main(["federated", "privacy-cost", "patients=[100]", "epsilon=[8]", "rounds=2", "steps=5"]) == 0
    cells = [c.strip() for c in next(x for x in capsys.readouterr().out.splitlines() if "0.08" in x).split("│")[1:-1]]
    assert 7.8 < float(cells[4]) <= 8
