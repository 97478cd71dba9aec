"""One file a revision; the newest one's number is `state.REVISION`."""
