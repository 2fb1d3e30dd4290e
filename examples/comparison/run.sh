#!/bin/sh
# All algorithms, and ssd's own settings, on the coordination tasks; run again to go on.
#
#     sh examples/comparison/run.sh runs/comparison     # trains what is missing
#     sh examples/comparison/run.sh report              # writes the tables and figures from the committed results
set -eu
here=$(dirname "$0")
results="$here/results"
if [ "$1" = report ]; then
    benchmarl-ssd report "$results/bandit.jsonl" "$results/ablations.jsonl" --out "$results/bandit" --algorithms ssd,marginal,joint,bc,cfcql,macql,madiff,maicq,maiql,matd3bc,omar,omiga
    benchmarl-ssd report "$results/ablations.jsonl" --out "$results/ablations"
    benchmarl-ssd report "$results/two_apples.jsonl" --out "$results/two_apples" --algorithms ssd,marginal,bc,cfcql,macql,madiff,maicq,maiql,matd3bc,omar,omiga
    exit
fi
# One budget for every algorithm of a task, fixed before the runs: 1500 steps of 256 transitions, networks of 64 x 64.
small="-o experiment.max_n_iters=30 -o experiment.off_policy_n_optimizer_steps=50
    -o experiment.off_policy_train_batch_size=256 -o experiment.evaluation_interval=15
    -o model.num_cells=[64,64] -o critic_model.num_cells=[64,64] -o experiment.checkpoint_at_end=False"
benchmarl-ssd compare --out "$1/bandit" --seeds 0-2 --datasets coordination/bandit/modes -o task.n_agents=4 $small \
    --algorithms bc,cfcql,macql,madiff,maicq,maiql,matd3bc,omar,omiga
benchmarl-ssd report "$1/bandit" --collect "$results/bandit.jsonl"
# 6000 steps of 256, as in examples/coordination.
benchmarl-ssd compare --out "$1/two_apples" --seeds 0-2 --datasets coordination/two_apples/coin-flip $small \
    -o experiment.max_n_iters=60 -o experiment.off_policy_n_optimizer_steps=100 -o experiment.evaluation_interval=30 \
    --algorithms ssd,marginal=ssd,bc,cfcql,macql,madiff,maicq,maiql,matd3bc,omar,omiga -o marginal:algorithm.decomposition=marginal
benchmarl-ssd report "$1/two_apples" --collect "$results/two_apples.jsonl"
benchmarl-ssd compare --out "$1/ablations" --seeds 0-2 --datasets coordination/bandit/modes -o task.n_agents=4 $small \
    --algorithms ssd,marginal=ssd,independent=ssd,joint=ssd,reversed=ssd,random-order=ssd,weight-one=ssd,weight-sigma2=ssd,mixture=ssd,stochastic=ssd,shared=ssd,frozen=ssd \
    -o marginal:algorithm.decomposition=marginal \
    -o independent:algorithm.decomposition=marginal -o independent:algorithm.critics=independent \
    -o joint:algorithm.decomposition=joint -o reversed:algorithm.order=reversed -o random-order:algorithm.order=random \
    -o weight-one:algorithm.weighting=one -o weight-sigma2:algorithm.weighting=sigma2 \
    -o mixture:algorithm.score_estimator=mixture -o stochastic:algorithm.stochastic_actors=True \
    -o shared:experiment.share_policy_params=True -o frozen:algorithm.critic=frozen
benchmarl-ssd report "$1/ablations" --collect "$results/ablations.jsonl"
