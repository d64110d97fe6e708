"""What makes an image and its caption suspicious: signals, each a pure function of all pairs, and canaries to test them.

A signal gives each pair a number, the higher the more suspicious. None of them knows which pairs are bad.
"""
