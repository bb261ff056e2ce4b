"""Why a classifier errs, and what can be done about it: an explanation with actions as data.

Below: `classification` for its predictions and the model of words, scikit-learn, scipy. Above:
`evaluate`; `llmtrain_api.findings` is what comes out.
"""
