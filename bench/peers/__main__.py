"""`python -m bench.peers`: install the peers. Exit status 0 whatever could not be: a run is made without it, and says so."""

from bench.peers.install import LITELLM, PORTKEY, install_litellm, install_portkey, why_missing


def main() -> None:
    """Install what is not installed yet, and say what there is."""
    for name, install in ((LITELLM, install_litellm), (PORTKEY, install_portkey)):
        print(f"{name}: installing (a few minutes at most)" if why_missing(name) else f"{name}: there", flush=True)
        if why_missing(name):
            install()
            print(f"{name}: {why_missing(name) or 'installed'}", flush=True)


if __name__ == "__main__":
    main()
