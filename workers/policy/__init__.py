"""The model that is trained: loading, tokenisation, log-probabilities, sampling."""
