"""What the simulator can show: benign applications with their share, attack classes with their tools.

A name here has a function of the same name in `benign_users`, `benign_sessions`, `benign_machines` or one of `attacks`.
"""

from __future__ import annotations

__all__ = ["APPLICATIONS", "BENIGN", "CLASSES", "SHARES", "TOOLS"]

BENIGN = "Benign"

APPLICATIONS: dict[str, float] = {
    "web": 0.261,
    "web_inbound": 0.092,
    "dns": 0.190,
    "quic": 0.065,
    "video": 0.012,
    "download": 0.008,
    "mail": 0.045,
    "voip": 0.012,
    "ssh": 0.035,
    "ftp": 0.025,
    "update": 0.035,
    "iot": 0.065,
    "ntp": 0.025,
    "ping": 0.022,
    "backup": 0.004,
    "health": 0.030,
    "database": 0.045,
    "logging": 0.015,
    "failed": 0.013,
    "mirrored": 0.001,
}
"""Benign applications and their shares of benign flows on a working day."""

TOOLS: dict[str, tuple[str, ...]] = {
    "DDoS-TCP_Flood": ("hping_syn", "spoofed_syn", "ack_flood", "http_flood"),
    "DDoS-UDP_Flood": ("udp_plain", "udp_random", "dns_amplification", "ntp_amplification"),
    "DDoS-ICMP_Flood": ("hping_icmp", "ping_flood", "smurf", "blacknurse"),
    "Recon-PortScan": ("nmap_syn", "nmap_connect", "masscan", "slow_scan"),
    "Recon-OSScan": ("nmap_os", "xprobe", "sinfp"),
    "BruteForce-SSH": ("hydra_ssh", "medusa_ssh", "patator_ssh", "slow_ssh"),
    "BruteForce-FTP": ("hydra_ftp", "medusa_ftp", "patator_ftp", "slow_ftp"),
    "Spoofing-ARP": ("arpspoof", "ettercap", "bettercap"),
    "Spoofing-DNS": ("dns_race", "kaminsky", "iodine", "dnscat"),
    "WebAttack-SQLi": ("sqlmap_union", "sqlmap_blind", "manual_sqli"),
    "WebAttack-XSS": ("xsser", "dalfox", "stored_xss"),
    "Malware-Backdoor": ("https_beacon", "reverse_shell", "keepalive_rat", "icmp_rat"),
}
"""Attack tools of each class. They are named for what they resemble; nothing of the originals is in them."""

SHARES: dict[str, float] = {
    "DDoS-TCP_Flood": 0.150,
    "DDoS-UDP_Flood": 0.110,
    "DDoS-ICMP_Flood": 0.075,
    "Recon-PortScan": 0.160,
    "Recon-OSScan": 0.075,
    "BruteForce-SSH": 0.080,
    "BruteForce-FTP": 0.070,
    "Spoofing-ARP": 0.050,
    "Spoofing-DNS": 0.065,
    "WebAttack-SQLi": 0.060,
    "WebAttack-XSS": 0.050,
    "Malware-Backdoor": 0.055,
}
"""Shares of attack flows."""

CLASSES: tuple[str, ...] = (BENIGN, *TOOLS)
