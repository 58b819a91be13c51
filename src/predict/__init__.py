"""`python -m src.predict`: classify new pictures or point clouds with what a run adapted.

`settings.py` says what is typed, `pictures.py` lists what to classify, `work.py` goes through it,
`part.py` keeps the answers meanwhile, and `formats.py` writes them in the end.
"""
