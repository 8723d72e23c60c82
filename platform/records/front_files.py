"""The front as a sweep leaves it in its folder: pictures and a table for people, a document for programs."""

from __future__ import annotations

PICTURE, PAGE, TABLE, DOCUMENT = "front.png", "front.html", "front.txt", "front.json"
FRONT_FILES = (PICTURE, PAGE, TABLE, DOCUMENT)
