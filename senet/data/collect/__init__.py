"""Collecting pictures of named mixes from lists of addresses and open APIs, for a person to look through.

spec.py      what is wanted, read from YAML
address.py   which addresses may be asked
fetch.py     polite and bounded requests
sources.py   what a source offers: addresses, with licence and author
examine.py   whether a file is a picture that an import takes, and what it resembles
manifest.py  what became of every address: the state of a collection
folder.py    the files of a collection, and the choices of the person who looked through them
sheet.py     the contact sheet
run.py       one call, from the spec to the summary
"""
