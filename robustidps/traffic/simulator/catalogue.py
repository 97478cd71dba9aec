"""What the simulator can show: benign applications with their share, attack classes with their tools.

A name here has a function of the same name in `benign_users`, `benign_sessions`, `benign_machines` or one of `attacks`,
or is a family of `dialects`.
"""

from __future__ import annotations

__all__ = ["APPLICATIONS", "BENIGN", "CLASSES", "SHARES", "TOOLS"]

BENIGN = "Benign"

APPLICATIONS: dict[str, float] = {
    "web": 0.164,
    "web_inbound": 0.073,
    "dns": 0.120,
    "quic": 0.045,
    "video": 0.010,
    "download": 0.007,
    "mail": 0.030,
    "voip": 0.010,
    "ssh": 0.030,
    "ftp": 0.020,
    "update": 0.025,
    "iot": 0.045,
    "ntp": 0.020,
    "ping": 0.018,
    "backup": 0.004,
    "health": 0.022,
    "database": 0.030,
    "logging": 0.018,
    "failed": 0.011,
    "mirrored": 0.001,
    "dhcp": 0.008,
    "discovery": 0.032,
    "signalling": 0.020,
    "media": 0.010,
    "games": 0.018,
    "p2p": 0.028,
    "vpn": 0.012,
    "industrial": 0.018,
    "messaging": 0.020,
    "rpc": 0.025,
    "neighbours": 0.015,
    "errors": 0.012,
    "routing": 0.007,
    "other_tcp": 0.036,
    "other_udp": 0.036,
}
"""Benign applications and their shares of benign flows on a working day. Those from `discovery` on are families of
protocols (`dialects`)."""

TOOLS: dict[str, tuple[str, ...]] = {
    "DDoS-TCP_Flood": ("hping_syn", "spoofed_syn", "ack_flood", "http_flood"),
    "DDoS-UDP_Flood": ("udp_plain", "udp_random", "dns_amplification", "ntp_amplification"),
    "DDoS-ICMP_Flood": ("hping_icmp", "ping_flood", "smurf", "blacknurse"),
    "Recon-PortScan": ("nmap_syn", "nmap_connect", "masscan", "slow_scan", "nmap_udp", "nmap_fin", "ping_sweep"),
    "Recon-OSScan": ("nmap_os", "xprobe", "sinfp"),
    "BruteForce-SSH": ("hydra_ssh", "medusa_ssh", "patator_ssh", "slow_ssh"),
    "BruteForce-FTP": ("hydra_ftp", "medusa_ftp", "patator_ftp", "slow_ftp"),
    "Spoofing-ARP": ("arpspoof", "ettercap", "bettercap"),
    "Spoofing-DNS": ("dns_race", "kaminsky", "birthday"),
    "WebAttack-SQLi": ("sqlmap_union", "sqlmap_blind", "manual_sqli"),
    "WebAttack-XSS": ("xsser", "dalfox", "stored_xss"),
    "Malware-Backdoor": (
        "https_beacon",
        "reverse_shell",
        "keepalive_rat",
        "icmp_rat",
        "dropper",
        "iodine",
        "dnscat",
        "dns2tcp",
        "dns_exfil",
    ),
}
"""Attack tools of each class. They are named for what they resemble; nothing of the originals is in them."""

SHARES: dict[str, float] = {
    "DDoS-TCP_Flood": 0.140,
    "DDoS-UDP_Flood": 0.105,
    "DDoS-ICMP_Flood": 0.070,
    "Recon-PortScan": 0.160,
    "Recon-OSScan": 0.070,
    "BruteForce-SSH": 0.080,
    "BruteForce-FTP": 0.070,
    "Spoofing-ARP": 0.050,
    "Spoofing-DNS": 0.065,
    "WebAttack-SQLi": 0.060,
    "WebAttack-XSS": 0.050,
    "Malware-Backdoor": 0.080,
}
"""Shares of attack flows."""

CLASSES: tuple[str, ...] = (BENIGN, *TOOLS)
