
# Agents' names, which only the daemon knows: all of them for administrators, and for others those that their
# shell can act as. The answer is waited for at most two seconds.
_hostbadge_agent_names() {
    local names
    names=$(timeout 2 hostbadge agent list 2>/dev/null | sed 1d | cut -d' ' -f1)
    [ -n "$names" ] || names=$(timeout 2 hostbadge whoami --json 2>/dev/null |
        sed -n 's/.*"agents":\[\([^]]*\)\].*/\1/p' | tr -d '"' | tr , '\n')
    echo "$names"
}

_hostbadge_with_agents() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} words=" ${COMP_WORDS[*]} "
    if [[ $before == --agent || ($before == show && $words == *" agent show "* && $word != -*) ]]; then
        COMPREPLY=($(compgen -W "$(_hostbadge_agent_names)" -- "$word"))
    else
        _hostbadge "$@"
    fi
}

complete -F _hostbadge_with_agents -o bashdefault -o default hostbadge
