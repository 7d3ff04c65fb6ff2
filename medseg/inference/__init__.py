"""A trained model and a Case become a Prediction on the Case's own grid."""
