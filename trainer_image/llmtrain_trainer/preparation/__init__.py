"""How documents become a dataset: one module for each step of the recipe, in this order.

    sources      which objects the manifest names, pinned by what the store says of them
    unpack       gz, zst and zip, with a bound on what may come out
    readers      text, JSON, tables and HTML as records, each with its place
    fields       records as documents
    refine       the steps that treat each document for itself:
      normalize    encoding, Unicode, control characters, whitespace
      selection    missing values, lengths, languages
      quality      heuristics of Gopher, C4 and FineWeb
    spool        documents on the local disk between two passes

Below: `store`, and the contract. Above: `prepare`, which puts the steps together. No step knows
another one; what passes between them is a `Document` of `document`.
"""
