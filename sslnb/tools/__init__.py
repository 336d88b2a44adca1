"""The tools: what runs study notebooks, looks after the store, draws the page of all results, and the command line.
The library needs none of them, and no result depends on them."""
