"""The names of the counters, in the order of the enumeration in mib.pxd (RFC 1213 and Linux's netstat extensions).

Responsible for names only; the numbers live in core.counters and are incremented where things happen.
"""

cdef extern from *:
    """
    static const char *const USTACK_MIB_NAMES[] = {
    /* IP */
    "IpInReceives", "IpInHdrErrors", "IpInAddrErrors", "IpInUnknownProtos", "IpInDelivers",
    "IpOutRequests", "IpOutDiscards", "IpOutNoRoutes", "IpReasmTimeout", "IpReasmReqds", "IpReasmOKs",
    "IpReasmFails", "IpFragOKs", "IpFragFails", "IpFragCreates", "IpInOctets", "IpOutOctets",
    /* ICMP */
    "IcmpInMsgs", "IcmpInErrors", "IcmpInCsumErrors", "IcmpInDestUnreachs", "IcmpInTimeExcds",
    "IcmpInParmProbs", "IcmpInSrcQuenchs", "IcmpInRedirects", "IcmpInEchos", "IcmpInEchoReps", "IcmpOutMsgs",
    "IcmpOutErrors", "IcmpOutRateLimitGlobal", "IcmpOutRateLimitHost", "IcmpOutDestUnreachs",
    "IcmpOutTimeExcds", "IcmpOutParmProbs", "IcmpOutEchos", "IcmpOutEchoReps",
    /* ARP */
    "ArpInRequests", "ArpInReplies", "ArpOutRequests", "ArpOutReplies", "ArpConflicts", "NeighResolveFailed",
    "NeighTableFull", "NeighQueueDrops",
    /* IPv6 and ICMPv6 (/proc/net/snmp6) */
    "Ip6InReceives", "Ip6InHdrErrors", "Ip6InAddrErrors", "Ip6InUnknownProtos", "Ip6InDelivers", "Ip6InOctets",
    "Ip6OutRequests", "Ip6OutDiscards", "Ip6OutNoRoutes", "Ip6OutOctets", "Ip6ReasmTimeout",
    "Ip6ReasmReqds", "Ip6ReasmOKs", "Ip6ReasmFails", "Ip6FragOKs", "Ip6FragFails",
    "Ip6FragCreates", "Icmp6InMsgs", "Icmp6InErrors", "Icmp6InCsumErrors", "Icmp6InDestUnreachs",
    "Icmp6InPktTooBigs", "Icmp6InTimeExcds", "Icmp6InParmProblems", "Icmp6InEchos", "Icmp6InEchoReplies",
    "Icmp6InGroupMembQueries", "Icmp6InGroupMembResponses", "Icmp6InRouterAdvertisements", "Icmp6InNeighborSolicits",
    "Icmp6InNeighborAdvertisements", "Icmp6InRedirects", "Icmp6OutMsgs", "Icmp6OutErrors", "Icmp6OutDestUnreachs",
    "Icmp6OutTimeExcds", "Icmp6OutParmProblems", "Icmp6OutEchos", "Icmp6OutEchoReplies", "Icmp6OutRouterSolicits",
    "Icmp6OutNeighborSolicits", "Icmp6OutNeighborAdvertisements", "Icmp6OutGroupMembResponses",
    "Icmp6OutGroupMembReductions", "Icmp6OutMLDv2Reports", "Ip6DadFailures",
    /* UDP */
    "UdpInDatagrams", "UdpNoPorts", "UdpInErrors", "UdpOutDatagrams", "UdpRcvbufErrors", "UdpSndbufErrors",
    "UdpInCsumErrors", "UdpIgnoredMulti", "UdpMemErrors",
    "UdpLiteInDatagrams", "UdpLiteNoPorts", "UdpLiteInErrors", "UdpLiteOutDatagrams", "UdpLiteRcvbufErrors",
    "UdpLiteSndbufErrors", "UdpLiteInCsumErrors", "UdpLiteIgnoredMulti", "UdpLiteMemErrors",
    /* TCP (snmp) */
    "TcpActiveOpens", "TcpPassiveOpens", "TcpAttemptFails", "TcpEstabResets", "TcpInSegs", "TcpOutSegs",
    "TcpRetransSegs", "TcpInErrs", "TcpOutRsts", "TcpInCsumErrors",
    /* TcpExt (netstat) */
    "ListenOverflows", "ListenDrops", "TCPReqQFullDrop", "DelayedACKs", "TCPHPHits", "TCPPureAcks",
    "TCPLossProbes", "TCPLossProbeRecovery", "TCPTimeouts", "TCPFastRetrans", "TCPSackRecovery",
    "TCPRenoRecovery", "TCPSlowStartRetrans", "TCPLostRetransmit",
    "TCPDSACKOldSent", "TCPDSACKOfoSent", "TCPDSACKRecv", "TCPSACKDiscard", "TCPSackReneging", "TCPOFOQueue",
    "TCPOFODrop", "TCPOFOMerge", "TCPRcvCollapsed", "TCPGroMerged", "TCPRcvQDrop", "TCPZeroWindowDrop",
    "TCPChallengeACK", "TCPSYNChallenge", "TCPACKSkippedSeq",
    "TCPACKSkippedChallenge", "TCPAbortOnData", "TCPAbortOnClose", "TCPAbortOnMemory", "TCPAbortOnTimeout",
    "TCPAbortOnLinger", "TCPKeepAlive", "TCPTimeWaitOverflow", "TW", "TWRecycled",
    "PAWSActive", "PAWSEstab", "PAWSTimewait", "TCPWinProbe", "TCPFromZeroWindowAdv", "TCPToZeroWindowAdv",
    "OutOfWindowIcmps", "TCPMemoryPressures",
    "TCPMTUPFail", "TCPMTUPSuccess", "TCPFullUndo", "TCPPartialUndo", "TCPDSACKUndo", "TCPLossUndo",
    "TCPSpuriousRTOs", "TCPDSACKOfoRecv", "TCPSACKReorder", "TCPDSACKIgnoredOld", "TCPDSACKIgnoredNoUndo",
    "SyncookiesSent", "SyncookiesRecv", "SyncookiesFailed", "TCPReqQFullDoCookies", "TCPDeferAcceptDrop",
    "TCPFastOpenActive", "TCPFastOpenActiveFail", "TCPFastOpenPassive", "TCPFastOpenPassiveFail",
    "TCPFastOpenListenOverflow", "TCPFastOpenCookieReqd", "TCPFastOpenBlackhole",
    "TCPMD5NotFound", "TCPMD5Unexpected", "TCPMD5Failure",
    /* frames and packets dropped, by reason */
    "DropNoBuffer", "DropEthTruncated", "DropEthType", "DropEthNotOurs", "DropEthSource", "DropArpMalformed",
    "DropArpNotOurs", "DropIpTruncated", "DropIpVersion", "DropIpHeader", "DropIpChecksum", "DropIpOptions",
    "DropIpSourceRoute", "DropIpMartianSource", "DropIpMartianDestination", "DropIpNotOurs",
    "DropIpUnknownProtocol", "DropFragMalformed", "DropFragOverlap", "DropFragTooBig", "DropFragMemory",
    "DropFragTooMany", "DropIcmpMalformed", "DropIcmpUnmatched",
    "DropIp6Header", "DropIp6Disabled", "DropIp6Martian", "DropIp6Extension", "DropIp6Option", "DropIp6Routing",
    "DropIp6NoNextHeader", "DropIcmp6Malformed", "DropIcmp6Unmatched", "DropNdMalformed", "DropNdHopLimit",
    "DropNdNotOurs",
    "DropUdpMalformed", "DropUdpLiteCoverage", "DropTcpMalformed",
    "DropTcpBroadcast", "DropTcpNoSocket", "DropTcpOutOfWindow", "DropTcpOldAck",
    "DropTcpBadAck", "DropTcpNoAck", "DropTcpPaws", "DropTcpRst", "DropTcpClosedData", "DropTxQueueFull",
    "DropTxTooBig", "DropIfaceDown",
    /* routing and groups */
    "IpForwDatagrams", "IcmpOutRedirects", "Ip6OutForwDatagrams", "Ip6InNoRoutes", "Ip6InTooBigErrors",
    "Icmp6OutPktTooBigs", "Icmp6OutRedirects",
    "IpInMcastPkts", "IpOutMcastPkts", "Ip6InMcastPkts", "Ip6OutMcastPkts", "IgmpInQueries",
    "IgmpInReports", "IgmpOutReports", "DropIgmpMalformed", "DropIpReversePath", "DropForwardTtl",
    "DropForwardMartian", "DropForwardNoRoute", "DropForwardTooBig", "DropNatFull", "DropNatProtocol", "NatFlowsMade",
    "NatFlowsShed",
    /* sockets that see packets, and filters */
    "DropSocketFilter", "DropRawChecksum", "DropRawQueueFull", "DropPacketQueueFull",
    /* flows to any destination (forwarders) */
    "FlowTcpRequests", "FlowUdpRequests", "FlowAccepts", "FlowRefusals", "DropFlowBacklog", "DropFlowTimeout",
    /* VLANs and bridges */
    "DropVlanUnknown", "DropVlanMalformed", "BridgeForwarded", "BridgeFlooded", "BridgeMoves", "BridgeTableFull",
    "DropBridgeReserved", "DropBridgeSamePort", "DropBridgeOwnAddress",
    };
    _Static_assert(sizeof(USTACK_MIB_NAMES) / sizeof(USTACK_MIB_NAMES[0]) <= 384, "more counters than MAX_COUNTERS");
    """
    const char *USTACK_MIB_NAMES[]


cdef const char *mib_name(int which) noexcept nogil:
    if which < 0 or which >= MIB_COUNT:
        return b""
    return USTACK_MIB_NAMES[which]


def names() -> list[str]:
    """The names of all counters, in the order of their index."""
    cdef int k
    return [(<bytes>USTACK_MIB_NAMES[k]).decode() for k in range(<int>MIB_COUNT)]
