"""How well documents are classified: metrics, labels, calibration, and what words alone can do.

Below: `dataset`, scikit-learn. Above: `evaluate`, and `error_analysis` for why it errs.
"""
