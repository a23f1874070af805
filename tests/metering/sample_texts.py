"""Short texts of several kinds, written for counting: what people, programs and machines send to a model."""

from __future__ import annotations

import json
import random

ENGLISH = """\
The invoice was disputed on a Thursday, three weeks after it had been paid. Somebody in the customer's finance
team had added up the requests by hand, and their total was lower than ours by eleven dollars and a few cents.
We looked at the logs, and then at the provider's own report, and found that neither of us was wrong: a batch of
streams had been cut by a deploy, the provider had billed what it had generated until then, and our gateway had
written those requests down as failures. It isn't a large amount. But a customer who finds one wrong line will
read every other line with the same suspicion, and they'd be right to do so. Since then we keep what was known
at the moment of the cut, say that it is an estimate, and let the provider's figure replace it when it arrives.
"""

GERMAN = """\
Die Rechnung enthielt einen Posten, den niemand erklären konnte. Erst als wir die Ereignisse einzeln durchgingen,
fiel auf, dass zwischengespeicherte Eingaben doppelt gezählt wurden: einmal als Teil der gesamten Eingabe und ein
zweites Mal für sich. Solche Fehler bleiben lange unbemerkt, weil die Beträge klein sind und die Summen ungefähr
stimmen. Darum prüfen wir heute jede Größe gegen eine zweite, unabhängige Berechnung, bevor sie weitergegeben wird.
"""

FRENCH = """\
Le service a été interrompu pendant une dizaine de minutes, mais aucune mesure n'a été perdue. Les événements ont
été conservés sur le disque, puis renvoyés dans l'ordre dès que la connexion a été rétablie. Ce n'est qu'en
comparant les totaux du mois que l'on s'aperçoit qu'une même réponse avait été comptée deux fois à l'origine.
"""

RUSSIAN = """\
Счёт за прошлый месяц оказался выше, чем мы ожидали. Оказалось, что длинные запросы оплачиваются по другому
тарифу, если в них больше двухсот тысяч токенов, и этот тариф применяется ко всему запросу целиком. Теперь мы
показываем такую границу заранее, чтобы никто не удивлялся сумме в конце месяца.
"""

CHINESE = """\
上个月的账单比预期高出不少。我们逐条核对之后发现，问题出在缓存的输入上：供应商把缓存部分算在总输入之内，而我们的程序
又单独加了一次。金额虽然不大，但是客户一旦发现一行有误，就会怀疑其余所有的数字。现在每个事件都带有唯一的编号，重复发送
也只计一次；如果流式响应中途断开，我们会保留已知的部分，并注明这是估算值，等供应商给出准确的用量之后再更正。
"""

JAPANESE = """\
先月の請求額は予想よりもかなり高かった。一件ずつ確認してみると、キャッシュされた入力が二重に数えられていたことが
分かった。金額は小さくても、一行でも間違いがあれば、お客様は残りのすべての数字を疑うようになる。そのため、途中で
切れた応答については分かっている部分だけを残し、推定値であることを明記している。
"""

CODE = '''\
def settle(reserved: dict[str, Decimal], events: Iterable[Event], *, now_ms: int) -> list[Entry]:
    """Releases what was reserved for calls that have ended, and expires the rest."""
    entries: list[Entry] = []
    for event in sorted(events, key=lambda item: (item.started_ms, item.key)):
        held = reserved.pop(event.key, None)
        if held is None:
            logger.warning("nothing was reserved for %s", event.key)
            continue
        if event.status != "success" and event.cost == 0:
            entries.append(Entry(event.tenant_id, held, reason="released"))
        else:
            entries.append(Entry(event.tenant_id, held - event.cost, reason="settled"))
    for key, held in list(reserved.items()):
        if now_ms - held.made_ms > EXPIRY_MS:
            entries.append(Entry(held.tenant_id, held.amount, reason="expired"))
            del reserved[key]
    return entries
'''

TYPESCRIPT = """\
export async function fetchUsage(tenantId: string, options: FetchOptions = {}): Promise<UsageRow[]> {
  const { signal, pageSize = 500 } = options;
  const rows: UsageRow[] = [];
  let cursor: string | undefined;
  do {
    const response = await fetch(`/api/tenants/${tenantId}/usage?limit=${pageSize}&cursor=${cursor ?? ''}`, { signal });
    if (!response.ok) {
      throw new HttpError(response.status, await response.text());
    }
    const page = (await response.json()) as Page<UsageRow>;
    rows.push(...page.items.filter((row) => row.inputTokens !== null));
    cursor = page.nextCursor;
  } while (cursor !== undefined);
  return rows;
}
"""

MARKDOWN = """\
## Release checklist

1. **Freeze** the rate card: `meterline check --config prod.yaml` must say *no findings*.
2. Compare totals with [the last statement](https://example.org/statements/2026-10):

| tenant | tokens | cost | price |
|---|---:|---:|---:|
| acme | 1,204,511 | 3.61 | 4.33 |
| globex | 88,020 | 0.26 | 0.32 |

> A total that fits by accident is worse than one that does not fit.
"""


def json_text() -> str:
    """Events as an application logs them: short keys, identifiers, numbers."""
    rng = random.Random(7)
    events = [
        {
            "id": f"evt_{rng.getrandbits(64):016x}",
            "tenant_id": rng.choice(["acme", "globex", "initech"]),
            "model": rng.choice(["gpt-4o-mini", "claude-sonnet-4-5"]),
            "usage": {"input_tokens": rng.randrange(9_000), "output_tokens": rng.randrange(900)},
            "latency_ms": rng.randrange(4_000),
            "tags": ["beta", "search"],
            "note": None,
        }
        for _ in range(8)
    ]
    return json.dumps(events, indent=2)


def numbers_text() -> str:
    """A table of figures as a spreadsheet exports it."""
    rng = random.Random(8)
    rows = [f"2026-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}" for _ in range(30)]
    return "\n".join(
        f"{day},{rng.randrange(10**6)},{rng.random() * 1000:.4f},{rng.random():.6f}" for day in rows
    )


TEXTS: dict[str, str] = {
    "English": ENGLISH,
    "German": GERMAN,
    "French": FRENCH,
    "Russian": RUSSIAN,
    "Chinese": CHINESE,
    "Japanese": JAPANESE,
    "Python": CODE,
    "TypeScript": TYPESCRIPT,
    "Markdown": MARKDOWN,
    "JSON": json_text(),
    "numbers": numbers_text(),
}
