"""What a dataset is like: `report.json` and `report.html`, written just before it is committed.

    survey       counts documents on their way to the tokenizer
    sample       what a sample of them is like
    record       what the report says, as it lies in report.json
    groups       how groups of people are mentioned in the sample, by the lists of `terms`
    plane        the sample as points of a plane
    vocabulary   what the tokenizer learned
    drawing      charts as SVG
    page         all of it as one HTML page
    publishing   makes the record and the page of it, and puts both into the store

Below: `preparation`, `shards`. Above: `prepare` makes a report of each dataset, `llmtrain data`
finds it. No value of personal data is in it: the sample is redacted before it is looked at.
"""
