"""The web demo: explain texts and images in a page.

``explaining``, ``controls`` and ``pictures`` are functions from what a user chose to HTML and know no web framework;
``page`` lays them out with Gradio, and ``server`` starts and stops it.
"""
