"""Labelled traffic of all `flow64` classes over simulated days, packet by packet, as real captures.

How its parts meet:

    settings    SimulatorSettings: seed, days, prevalence, difficulty, drift, which tools when; its digest
    catalogue   names and shares of benign applications, attack classes and their tools
    world       the site's hosts and those outside: addresses, distances, losses, stacks
    day         one day: random streams, hours of activity, and what applications and attack runs are given
    plan        who talks to whom and what is said: flows and messages, no packets yet
    benign_users, benign_sessions, benign_machines, attacks/
                fill the plan; one function an application or tool
    dialects    families of protocols as ranges, and protocols drawn from them
    benign_tail fills the plan with what speaks those
    build       the plan's messages become TCP, UDP and ICMP packets, all flows of a day at once
    pcap        packets become headers with right checksums, and a capture file
    simulate    days, truth and manifest on disk
    traffic     captures become flows through NFStream, and a labelled TrafficSet

Only `traffic` needs NFStream. docs/simulator.md says what a flow record can show of each class, and how models score.
"""

from __future__ import annotations

from robustidps.traffic.simulator.settings import SIMULATOR_VERSION, ServiceChange, SimulatorSettings
from robustidps.traffic.simulator.simulate import Simulation, simulate
from robustidps.traffic.simulator.traffic import fresh_capture, simulated_traffic

__all__ = [
    "SIMULATOR_VERSION",
    "ServiceChange",
    "Simulation",
    "SimulatorSettings",
    "fresh_capture",
    "simulate",
    "simulated_traffic",
]
