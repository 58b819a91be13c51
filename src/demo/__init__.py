"""`python -m src.demo`: try in a browser what a run adapted.

`settings.py` says what is typed, `answer.py` classifies a picture, `page.py` writes what is shown
of it, and `server.py` serves the page.
"""
