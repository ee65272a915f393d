"""What validation found, in words."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


def text(report: dict[str, Any]) -> str:
    """A report for people."""
    total, lines = report["total"], []
    lines.append("row  tokens dropped  peak MB told/seen   nats told/seen (error)   policies")
    for row in sorted(report["rows"], key=lambda each: each["row"]):
        peak, nats = row["peak_bytes"], row["nats"]
        lines.append(
            f"{row['row']:<4} {row['tokens']:>6} {row['dropped'][0]:>3}+{row['dropped'][1]:<3} "
            f"{peak['predicted'] / 1e6:>7.1f} {peak['measured'] / 1e6:>7.1f}   "
            f"{_nats(nats['predicted'])} {_nats(nats['measured'])} ({_nats(row['nats_se'])})   "
            f"{row['reason']}: {', '.join(row['policies'])}"
        )
    lines.append("")
    size, nats = total["bytes"], total["nats"]
    lines.append(
        f"bytes    {size['mean_relative']:.1%} off on average, {size['worst_relative']:+.1%} at worst"
    )
    if nats["difference"] is not None:
        lines.append(
            f"nats     {nats['predicted']:.3f} predicted, {nats['measured']:.3f} measured, "
            f"{nats['difference']:+.3f} (standard error {_nats(nats['se'])}); weighed by place as "
            f"the table is: {_nats(nats['by_position']['at_table_lengths'])}"
        )
    for kind, each in total["seconds"].items():
        told = "-" if each["predicted"] is None else f"{each['predicted']:.2f}"
        off = "" if each["relative"] is None else f", {each['relative']:+.1%}"
        lines.append(f"{kind:<8} {told} s predicted, {each['measured']:.2f} s measured{off}")
    lines += [
        f"{name:<12} {total[name]['predicted']:.2f} predicted, {total[name]['measured']:.2f} measured"
        for name in ("emergency_s", "refused_s", "stall_s")
    ]
    lines += _reaction_lines(report.get("reaction"))
    lines.append("")
    lines += _ranking_lines(report["policies"])
    lines.append("")
    lines += [_verdict_line(each) for each in report["verdicts"]]
    lines += _limit_lines(report["limit"])
    return "\n".join(lines)


def _nats(value: float | None) -> str:
    return "    -" if value is None else f"{value:.3f}"


def _reaction_lines(found: dict[str, Any] | None) -> list[str]:
    """How long serving paused in an emergency, beside what the world says; reports of before say nothing."""
    if found is None:
        return []
    stated = f"reaction_s   {found['stated_s']:.3f} stated"
    if found["reaction_s"] is None:
        return [f"{stated}; no emergency to measure"]
    return [
        f"{stated}, {found['reaction_s']:.3f} measured in {found['emergencies']} emergencies: "
        f"{found['release_s']:.3f} until blocks had left ({found['longest_release_s']:.3f} at worst) "
        f"after a decode step of {found['step_s']:.3f}"
    ]


def _ranking_lines(ranks: dict[str, Any]) -> list[str]:
    lines = ["policy            cost predicted  measured"]
    lines += [
        f"{each['policy']:<20} {each['predicted']:>8.4f} {each['measured']:>10.4f}"
        for each in sorted(ranks["costs"], key=lambda one: one["measured"])
    ]
    order = "-" if ranks["spearman"] is None else f"{ranks['spearman']:.3f}"
    lines.append(
        f"rank correlation {order}; what differs by less than {ranks['error']:.4f} is a tie"
    )
    lines += [
        f"{' and '.join(pair['policies'])} are the other way round: {pair['predicted']:+.4f} "
        f"predicted, {pair['measured']:+.4f} measured"
        for pair in ranks["pairs"]
        if pair["verdict"] == "other order"
    ]
    return lines


def _verdict_line(each: dict[str, Any]) -> str:
    found = "-" if each["found"] is None else f"{each['found']:.4f}"
    limit = "" if each["limit"] is None else f" (goal {each['limit']:g})"
    return f"{each['goal']:<20} {found}{limit}: {each['verdict']}"


def _limit_lines(limit: dict[str, Any]) -> list[str]:
    lines = [f"limit enforced by {limit['enforced_by'] or 'nothing'}: exceeded with the shield in "
             f"{limit['exceeded_with_shield']} trials"]  # fmt: skip
    off = limit.get("unshielded")
    if off:
        lines.append(f"without it in {off['exceeded']} of {off['trials']} trials")
    return lines
