"""Controls of section 5: what a random dictionary, a random encoder, refitting and pursuit give."""
