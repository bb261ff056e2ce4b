"""How documents become a dataset: one module for each step of the recipe, in this order.

    sources      which objects the manifest names, pinned by what the store says of them
    pins         the same ones for all tasks of a run, by their versions where there are some
    dataset_directory  which of them hold a split of a Hugging Face dataset
    unpack       gz, zst and zip, with a bound on what may come out
    erasure      documents that must not be used
    relabelling  documents whose label was found to be wrong
    readers      text, JSON, tables and HTML as records, each with its place, by
      json_stream, columnar, html   for some formats
    records, fields, conversations   records as documents
    quarantine   what is kept of records that cannot be read
    marks        the turns of a conversation within its text
    refine       the steps that treat each document for itself:
      normalize    encoding, Unicode, control characters, whitespace
      selection    missing values, lengths, languages
      quality      heuristics of Gopher, C4 and FineWeb
      privacy      personal data and secrets, by the forms of `personal_data`
    workers      several processes for these steps
    reading      all of this as the first pass, by units that several tasks divide among them
    spool        documents on the local disk between two passes
    duplicates   documents that were there before, exactly or nearly, by the keys of `minhash`
    leakage      near copies between training and what is held out
    contamination  documents that give away a set to evaluate on
    reduce       at most so much of a source
    prune        documents unlike the others, and those that say nothing new
    paragraphs   paragraphs that were there before
    splits       training, validation and test
    augment      changed copies of training documents, with the lexicon of `synonyms`
    budget       at most so many tokens to train on
    encoding     pieces of text as tokens, the second pass that several tasks divide among them

How tasks divide work is in `team`, by the claims of `claims`; `tasks` says what each does.

Below: `store`, and the contract. Above: `corpus` puts the steps together, and `prepare` makes a
dataset of what they leave. What passes between them is a `Document` of `document`.
"""
