"""Whether words or characters are what counts."""

import pytest

from kdasr.evaluation.measure import Writing


@pytest.mark.parametrize(
    ("texts", "measure"),
    [
        (["YES", "NO"], "wer"),  # single words of a script that has spaces
        (["今天天气很好", "我们去公园 好吗"], "cer"),
        (["开灯"], "cer"),
        (["今天 天气 很 好"], "wer"),  # words separated by who wrote the transcripts
        (["昨日は東京へ行きました"], "cer"),
        (["ฉันไปโรงเรียนทุกวัน และกลับบ้านตอนเย็น"], "cer"),
        (["오늘 날씨가 좋습니다"], "wer"),
        (["我买了 iPhone"], "wer"),  # most letters are Latin
        ([""], "wer"),
        ([], "wer"),
    ],
)
def test_characters_count_where_words_are_not_separated(texts: list[str], measure: str) -> None:
    assert Writing.of(texts).measure == measure
