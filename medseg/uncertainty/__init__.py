"""How sure a prediction is: measures of members' disagreement, calibration, guarantees, and what they say of a Case."""
