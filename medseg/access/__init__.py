"""Who may look: passwords, sessions, a throttle, an audit log, and the gate that stands in front of the viewer."""
