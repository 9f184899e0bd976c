"""The regression gate: does a candidate cost more, or answer worse, than a baseline?"""
