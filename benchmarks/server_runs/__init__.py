"""The embedded server against DJL Serving, what its front adds, and a hundred models at once.

- `duel`: the same model on both servers, asked in turn;
- `overhead`: an echo through the server, and the same echo straight from the engine;
- `crowd`: many models, of which some are wanted more than others;
- `report`: what came of it.
"""
