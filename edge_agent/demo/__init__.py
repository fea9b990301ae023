"""The main job on simulated instruments: every part a process of its own, judged by what the instruments say they sent."""
