"""Shape contracts: wrong axes are refused, by name, before anything is computed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from medmeta_jax.algorithms.maml import maml
from medmeta_jax.types import Examples, check_episode, check_examples

from .conftest import WAYS, make_episode, tiny_backbone


def test_good_examples_pass() -> None:
    episode = make_episode()
    check_episode(episode)
    check_examples(Examples({"t1": jnp.ones((4, 8, 8, 1))}, jnp.zeros(4), jnp.ones(4, bool)), "s")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e._replace(y=e.y[:-1]), r"support\.y must have n=6 examples on axis 0"),
        (lambda e: e._replace(x=e.x[:2]), r"support\.x must have n=6 examples on axis 0"),
        (lambda e: e._replace(x={"t1": e.x[:2]}), r"support\.x\['t1'\] must have n=6"),
        (lambda e: e._replace(mask=e.mask[:, None]), r"support\.mask must be \[n\]"),
        (lambda e: e._replace(mask=e.mask.astype(jnp.int32)), r"support\.mask must be bool"),
    ],
)
def test_wrong_support_is_refused_by_name(change, message) -> None:
    episode = make_episode()
    with pytest.raises(ValueError, match=message):
        check_episode(episode._replace(support=change(episode.support)))


def test_support_and_query_must_fit() -> None:
    episode = make_episode()
    small = episode.query._replace(x=episode.query.x[:, :4])
    with pytest.raises(ValueError, match=r"every axis after n .*\(6, 8, 8, 1\) and \(12, 4, 8, 1"):
        check_episode(episode._replace(query=small))
    other = episode.query._replace(x={"a": episode.query.x, "b": episode.query.x})
    with pytest.raises(ValueError, match="must be the same tree, got 1 and 2 arrays"):
        check_episode(episode._replace(query=other))
    with pytest.raises(ValueError, match=r"classes must be \[ways\]"):
        check_episode(episode._replace(classes=jnp.zeros((2, 2))))


def test_every_public_function_of_a_learner_checks() -> None:
    learner, episode = maml(tiny_backbone(), outputs=WAYS), make_episode()
    key = jax.random.key(0)
    params = learner.init(key, episode.support.x)
    short = episode.support._replace(y=episode.support.y[:-1])
    with pytest.raises(ValueError, match=r"support\.y"):
        learner.adapt(params, short, key)
    with pytest.raises(ValueError, match=r"support\.y"):
        learner.loss(params, episode._replace(support=short), key, jnp.zeros((), jnp.int32))
    adapted = learner.adapt(params, episode.support, key)
    with pytest.raises(ValueError, match=r"query\.x"):
        learner.predict(adapted, episode.query.x, episode.query.mask[:-1])


def test_checks_hold_under_vmap() -> None:
    """A batch axis is vmap's business: inside, an episode is an episode."""
    episode = make_episode()
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), episode)
    with pytest.raises(ValueError, match=r"support\.mask must be \[n\]"):
        check_episode(batch)
    jax.vmap(lambda e: (check_episode(e), e)[1])(batch)
